"""`gnomon bench --backend cuda` as far as it goes without a GPU: the message, and launches done again, on a stand-in for the device."""

from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.suites import cases_of
from engine.cli.group import gnomon, run
from kernels.registry import has_gpu, ladder


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_without_a_gpu_one_line_names_what_can_be_had(capsys):
    assert run(["bench", "sgemm", "--backend", "cuda"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no GPU" in line and "--cuda-static" in line and "gnomon emulate" in line


@pytest.mark.parametrize("option", [["--target", "sm_80"], ["--write-golden"]])
def test_options_of_static_evidence_are_for_it_alone(option):
    assert CliRunner().invoke(gnomon, ["bench", "sgemm", *option]).exit_code == 2


class There:
    """An array on a device that is none: a copy."""

    def __init__(self, a):
        self.a = a.copy()
        self.__cuda_array_interface__ = a.__array_interface__

    def copy_to_host(self, to):
        to[...] = self.a


def emulated(launch, args):
    from kernels.cuda.launch import Emulated, replace

    Emulated().run(replace(launch, args=here(args)))


def here(args):
    found = [here(a) if isinstance(a, tuple) else a.a if isinstance(a, There) else a for a in args]
    return type(args)._make(found) if hasattr(args, "_fields") else tuple(found)


@pytest.mark.numba_cuda
@pytest.mark.parametrize("op", ["matmul", "matmul_bf16", "conv2d_weight_grad", "adam_step"])
def test_launches_that_were_recorded_make_the_result_when_they_are_done_again(op, monkeypatch):
    from benchmarks.cuda_peers.gnomon import Rungs

    monkeypatch.setattr("kernels.cuda.launch.numba_cuda", lambda: SimpleNamespace(to_device=There))
    case = next(case for case in cases_of(op) if case.dtype != "float64").small()
    args, params = case.call()
    again = Rungs("").prepare(case, args, params)
    assert not again.there or all(isinstance(a, There) for a in again.there.values())
    monkeypatch.undo()
    monkeypatch.setattr("kernels.cuda.launch.started", emulated)
    for _ in range(2):  # nothing of the first time is left over
        error = case.error(args, params, Rungs("").as_numpy(again()))
    assert error <= max(next(r for r in ladder(op, "cuda") if r.serves).rtol.values())


def test_the_clock_of_the_device_adds_what_events_saw(monkeypatch):
    import numba

    from benchmarks.clock import Device

    class Event(SimpleNamespace):
        now = 0.0

        def record(self):
            Event.now += 2.5
            self.at = Event.now

        def synchronize(self):
            self.waited = True

    stand_in = SimpleNamespace(event=Event, event_elapsed_time=lambda a, b: (b.at - a.at) if b.waited else np.nan)
    monkeypatch.setattr(numba, "cuda", stand_in, raising=False)
    clock = Device()
    assert clock() == 0.0 and clock() == pytest.approx(2.5e-3) and clock() == pytest.approx(5e-3)
