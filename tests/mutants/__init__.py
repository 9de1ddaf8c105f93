"""Bugs that happened, made again: functions with right rules and with wrong ones, by family.

RIGHT        every function with right rules, by name
CATALOGUE    every wrong rule, by name; sources are the threads in which the fault was reported
"""

from mutants import (
    arithmetic,
    contracts,
    dag,
    indexing,
    kinks,
    layout,
    matrices,
    models,
    modes,
    network,
    pieces,
    plain,
    products,
    reductions,
    segments,
    spectra,
    tails,
    whole,
)
from mutants.record import CATALOGUE, RIGHT, Mutant, Right

WITH_MUTANTS = (arithmetic, contracts, dag, indexing, kinks, layout, modes, network, products, reductions, segments, spectra, tails)
RIGHT_ONLY = (matrices, models, pieces, plain, whole)

__all__ = ["CATALOGUE", "RIGHT", "RIGHT_ONLY", "WITH_MUTANTS", "Mutant", "Right"]
