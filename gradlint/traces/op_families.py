"""Families of torch calls by plain name (`Op.name`), each defined once."""

from __future__ import annotations

# -- arithmetic -----------------------------------------------------------------------------------------------------

ADD = frozenset("add add_ __add__ __radd__ __iadd__".split())
"""Sums of two operands."""
SUBTRACT = frozenset("sub sub_ subtract subtract_ __sub__ __isub__".split())
"""Differences, the second operand subtracted from the first."""
REVERSE_SUBTRACT = frozenset("rsub __rsub__".split())
"""Differences, the first operand subtracted from the second."""
SUMS = ADD | SUBTRACT | REVERSE_SUBTRACT
"""Sums and differences."""
NEGATE = frozenset("neg neg_ negative __neg__".split())
"""Negations."""
MULTIPLY = frozenset("mul mul_ multiply multiply_ __mul__ __rmul__ __imul__".split())
"""Products, element by element."""
DIVIDE = frozenset("div div_ divide divide_ true_divide __truediv__ __itruediv__".split())
"""Quotients; those of ``div`` and ``divide`` may be rounded (``rounding_mode``)."""
REDUCTIONS = frozenset(("sum", "mean"))
"""Reductions that are linear in their input."""

# -- layers ---------------------------------------------------------------------------------------------------------

CONVOLUTIONS = frozenset("conv1d conv2d conv3d".split())
"""Convolutions with the weight's first dimension as output."""
TRANSPOSED_CONVOLUTIONS = frozenset("conv_transpose1d conv_transpose2d conv_transpose3d".split())
"""Convolutions with the weight's first dimension as input."""
ALL_CONVOLUTIONS = CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS
"""Convolutions, transposed or not."""
BIASED_LAYERS = ALL_CONVOLUTIONS | {"linear"}
"""Layers that take a bias as third argument."""
RECURRENT = frozenset("rnn_tanh rnn_relu lstm gru rnn_tanh_cell rnn_relu_cell lstm_cell gru_cell".split())
"""Recurrent layers and their cells."""
PRODUCTS = MULTIPLY | BIASED_LAYERS | RECURRENT | frozenset("matmul __matmul__ __rmatmul__ mm bmm einsum".split())
"""Functions that multiply two of their tensors, so that a zero in one leaves the other without gradient."""
WEIGHTED = CONVOLUTIONS | frozenset("linear addmm matmul mm __matmul__".split())
"""Functions that multiply each row of their output with a weight once."""
NORMS = frozenset("batch_norm layer_norm group_norm instance_norm".split())
"""Normalizations."""
TARGETED_LOSSES = frozenset(
    "mse_loss l1_loss smooth_l1_loss huber_loss cross_entropy cross_entropy_loss nll_loss kl_div binary_cross_entropy "
    "binary_cross_entropy_with_logits poisson_nll_loss gaussian_nll_loss soft_margin_loss".split()
)
"""Losses of an input against a target, their second tensor."""
DROPOUTS = frozenset("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split())
"""Dropouts."""
ATTENTION = frozenset(("scaled_dot_product_attention",))
"""Attention with a dropout of its own."""
ACTIVATIONS = frozenset(
    "relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu celu gelu silu mish hardtanh hardswish softplus tanh "
    "tanh_".split()
)
"""Activations other than sigmoids, element by element."""
SIGMOIDS = frozenset("sigmoid sigmoid_ expit".split())
"""Functions that give probabilities, element by element."""
PROBABILITIES = SIGMOIDS | frozenset("softmax softmin gumbel_softmax".split())
"""Functions that give probabilities."""
LOG_PROBABILITIES = frozenset(("log_softmax", "logsigmoid"))
"""Functions that give logarithms of probabilities."""
SOFTMAX = frozenset("softmax log_softmax".split())
"""Functions that give probabilities of the entries of a dimension, or their logarithms."""

# -- the same values, arranged otherwise ----------------------------------------------------------------------------

SAME_VALUES = frozenset(
    "contiguous clone to float double half bfloat16 type type_as cuda cpu alias identity pin_memory "
    "expand_as view_as_real positive __pos__".split()
)
"""Functions that leave each element in its place: copies, casts, moves between devices."""
RESHAPES = frozenset(
    "view reshape flatten unflatten squeeze squeeze_ unsqueeze unsqueeze_ view_as reshape_as ravel".split()
)
"""Functions that change the shape and keep the order of elements."""
SCALAR_KEEPING = REDUCTIONS | frozenset("view reshape squeeze".split())
"""Functions that give a scalar the value of their input where that has one element."""
DIMENSION_SWAPS = frozenset("transpose transpose_ swapaxes swapdims".split())
"""Functions that exchange two dimensions."""
MATRIX_TRANSPOSES = frozenset("t T mT adjoint numpy_T".split())
"""Functions that exchange the last two dimensions, or all of them."""
JOINS = frozenset("cat concat concatenate stack vstack".split())
"""Functions that put several tensors into one."""
SPLITS = frozenset("chunk split split_with_sizes tensor_split narrow".split())
"""Functions that cut a tensor into slices of a dimension that stays."""
SLICE_PICKS = frozenset("index_select flip roll repeat tile repeat_interleave".split())
"""Functions that choose, order or repeat slices and leave each slice across as it is."""
SELECTIONS = frozenset(
    "where masked_fill masked_fill_ masked_select __getitem__ gather index_select take_along_dim".split()
)
"""Functions that choose elements by a mask or by indices."""
LOOKUPS = frozenset(
    "embedding embedding_bag one_hot __getitem__ gather index_select take take_along_dim scatter scatter_".split()
)
"""Functions that read integers as indices."""
PAIRWISE = frozenset("broadcast_tensors meshgrid align_tensors atleast_1d atleast_2d atleast_3d".split())
"""Functions that give as many tensors as they take, each made from its own one (so do all of ``_foreach_``)."""

# -- what keeps or ends gradient ------------------------------------------------------------------------------------

DETACHING = frozenset("detach detach_".split())
"""Calls that only take a tensor out of the autograd graph."""
DETACHED_VALUES = DETACHING | {"data", "Variable"}
"""Ways to a scalar's value without its gradient; a cut by ``data`` or ``Variable`` is a roundtrip, no detach."""
ROUNDTRIPS = frozenset(
    "data Variable Parameter tensor as_tensor asarray new_tensor from_numpy alias set_ sparse_coo_tensor".split()
)
"""Ways by which a value leaves autograd and comes back as another tensor."""
TENSOR_MAKERS = frozenset("tensor as_tensor full from_numpy FloatTensor scalar_tensor asarray".split())
"""Makers of tensors from numbers and arrays."""
NEW_LEAF = frozenset("Variable Parameter tensor new_tensor requires_grad_".split())
"""Makers of a leaf, whatever they are given: if it requires grad, that gradient is its own and goes no further."""
ZERO_GRADIENT_NODES = {
    "Angle": "angle",
    "Bernoulli": "bernoulli bernoulli_",
    "Ceil": "ceil ceil_",
    "Eq": "eq_",
    "Floor": "floor floor_",
    "Ge": "ge_ greater_equal_",
    "Gt": "gt_ greater_",
    "Le": "le_ less_equal_",
    "Lt": "lt_ less_",
    "Ne": "ne_ not_equal_",
    "Normal": "normal",
    "NotImplemented": "floor_divide floor_divide_ __floordiv__ __rfloordiv__ __ifloordiv__ heaviside heaviside_ "
    "binomial",
    "Poisson": "poisson",
    "Round": "round round_ special_round",
    "Sgn": "sgn sgn_",
    "Sign": "sign sign_",
    "Trunc": "trunc trunc_ fix fix_",
}
"""Stem of a node of the autograd graph → functions that make it and whose gradient is zero everywhere, or undefined.

The gradient of ``angle`` and ``sgn`` is zero for real numbers alone. The arguments show whether a division rounds.
"""
ZERO_GRADIENT = frozenset(name for names in ZERO_GRADIENT_NODES.values() for name in names.split())
"""Functions that keep a grad_fn and whose gradient is zero everywhere."""
ZERO_GRADIENT_IF_REAL = ZERO_GRADIENT & frozenset("angle sgn sgn_".split())
"""Functions among them whose gradient is not zero for complex numbers."""
ZERO_GRADIENT_OF_SECOND = frozenset("copysign copysign_ nextafter nextafter_".split())
"""Functions of two tensors whose gradient is zero everywhere for the second."""
ENDS_GRADIENT = (DETACHING | ROUNDTRIPS | NEW_LEAF) - frozenset(
    "as_tensor asarray sparse_coo_tensor requires_grad_".split()
)
"""Functions that take a tensor out of the autograd graph, whether it requires grad or not."""
SHAPED_AFTER = frozenset("type_as expand_as view_as reshape_as resize_as_ to".split())
"""Functions of one tensor that take the shape, type or device of the result from a second one."""
VALUE_FREE = frozenset(
    "zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_zeros new_ones new_empty new_full "
    "empty_strided new_empty_strided zero_ uniform_ normal_ exponential_ random_ cauchy_ log_normal_ geometric_ "
    "kaiming_uniform_ kaiming_normal_ xavier_uniform_ xavier_normal_ trunc_normal_ zeros_ ones_ eye_ orthogonal_ "
    "dirac_ sparse_ constant_ result_type can_cast promote_types broadcast_shapes".split()
)
"""Functions whose result depends on the shape or type of a tensor argument but not on its values."""
ALLOCATIONS = frozenset("empty empty_like empty_strided empty_permuted new_empty new_empty_strided".split())
"""Makers of tensors whose memory holds what was there before."""
VIEWS = frozenset("alias detach data view t transpose".split())
"""Functions whose result has the memory of their argument."""
OVERWRITES = frozenset("copy_ fill_ set_ data".split())
"""Writes that leave nothing of the old content, only that of the other arguments."""
RANDOM = frozenset("rand randint randperm randn bernoulli bernoulli_ multinomial uniform_ random_ normal_".split())
"""Makers of random numbers."""
RANDOM_TENSORS = frozenset("rand randn normal rand_like randn_like randint randperm bernoulli".split())
"""Makers of a new random tensor."""
RANDOM_WRITES = frozenset(
    "uniform_ normal_ kaiming_uniform_ kaiming_normal_ xavier_uniform_ xavier_normal_ trunc_normal_ orthogonal_ "
    "sparse_ exponential_ random_ cauchy_ log_normal_ geometric_ bernoulli_".split()
)
"""Writes that fill a tensor with random numbers."""

# -- ways out of torch ----------------------------------------------------------------------------------------------

NUMBERS_OUT = frozenset("item __float__ tolist".split())
"""Calls that take floating-point numbers out of torch."""
ARRAYS_OUT = frozenset("numpy __array__ tolist __dlpack__".split())
"""Calls that take whole arrays and lists out of torch; single numbers are often only logged."""
MEMORY_OUT = frozenset("numpy __array__ __array_wrap__ __dlpack__ __cuda_array_interface__".split())
"""Calls that give away a tensor's memory; ``tolist`` copies it."""
DECISIONS = frozenset("__bool__ __contains__ is_nonzero equal allclose __len__".split())
"""Ways out of torch that decide which code runs rather than which values flow."""
