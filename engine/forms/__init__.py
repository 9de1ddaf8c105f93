"""Weights kept in another form than as their arrays, and models that run on them as they are written.

formed = lowrank.factorise(params, {"w1": 40})       # {"w1": LowRank(u, v), "b1": array, ...}
running(mlp.predict)(formed, x)                      # where predict calls dense(x, params["w1"], ...), two small products run

loss = running(mlp.loss, like=formed)                # for `fit`, which trains arrays: {"w1/u": ..., "w1/v": ..., "b1": ...}
run = fit(loss, flat(formed), (x, t), optimizer=Adam(), epochs=3)
running(mlp.predict)(folded(formed, run.params), x)
"""

from engine.forms.coded import Coded, Dynamic, in_codes
from engine.forms.form import Form, flat, folded, running
from engine.forms.pruned import CSR, Blocks, TwoToFour, race, sparse

__all__ = ["CSR", "Blocks", "Coded", "Dynamic", "Form", "TwoToFour", "flat", "folded", "in_codes", "race", "running", "sparse"]
