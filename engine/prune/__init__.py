"""Pruning: which weights a model can do without, and what is left without them. `engine.masks` says what a mask is.

criteria      how important a weight is
select        the masks that keep the most important: single weights, blocks, n of m
channels      channels, which go together in several arrays; smaller arrays without them
schedule      how much is kept when
stages        prune and train, in stages or while training
"""

from engine.prune.channels import ChannelError, Group, channel_masks, channels, kept_by, norm_scales, select_channels, shrink
from engine.prune.criteria import batch_norm_scale, hessian, lamp, magnitude, movement, random, snip, taylor
from engine.prune.schedule import SCHEDULES, Cubic, Exponential, Linear, OneShot, Schedule
from engine.prune.select import Blocks, NofM, ScoreError, Weights, select
from engine.prune.stages import Gradual, Stage, by_channels, by_weights, iterate

__all__ = [
    "SCHEDULES", "Blocks", "ChannelError", "Cubic", "Exponential", "Gradual", "Group", "Linear", "NofM", "OneShot", "Schedule",
    "ScoreError", "Stage", "Weights", "batch_norm_scale", "by_channels", "by_weights", "channel_masks", "channels", "hessian", "iterate",
    "kept_by", "lamp", "magnitude", "movement", "norm_scales", "random", "select", "select_channels", "shrink", "snip", "taylor",
]  # fmt: skip
