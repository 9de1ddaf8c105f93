"""Every op of the engine, one module a family. Formula, forward and derivative stand in one place."""

from engine.ops.activations import *  # noqa: F403
from engine.ops.bfloat16 import *  # noqa: F403
from engine.ops.bias import *  # noqa: F403
from engine.ops.bits import *  # noqa: F403
from engine.ops.conv import *  # noqa: F403
from engine.ops.cumulative import *  # noqa: F403
from engine.ops.dense import *  # noqa: F403
from engine.ops.einsum import *  # noqa: F403
from engine.ops.elementwise import *  # noqa: F403
from engine.ops.factor import *  # noqa: F403
from engine.ops.index import *  # noqa: F403
from engine.ops.int8 import *  # noqa: F403
from engine.ops.layout import *  # noqa: F403
from engine.ops.linalg import *  # noqa: F403
from engine.ops.linear import *  # noqa: F403
from engine.ops.loss import *  # noqa: F403
from engine.ops.network import *  # noqa: F403
from engine.ops.normalise import *  # noqa: F403
from engine.ops.pool import *  # noqa: F403
from engine.ops.quantise import *  # noqa: F403
from engine.ops.reduce import *  # noqa: F403
from engine.ops.remainder import *  # noqa: F403
from engine.ops.sort import *  # noqa: F403
from engine.ops.sparse import *  # noqa: F403
from engine.ops.trigonometry import *  # noqa: F403
from engine.ops.update import *  # noqa: F403
