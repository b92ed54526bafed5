"""Names of torch's functions that run no multiply-add: a FLOP count that met only these and known formulas is exact.

As in torch's FlopCounterMode, work on each element by itself (sums, means, activations, normalisations, pooling) counts
nothing. A function whose name is not here and that has no formula makes the count a lower bound, so that a product that
a later version of torch brings is never counted as 0.
"""

from __future__ import annotations

# In-place variants are the same name with an underscore behind it; they need no entry of their own.
_ELEMENTWISE = """
abs absolute acos acosh add addcdiv addcmul addr angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh
atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil clamp
clamp_max clamp_min clip clone complex conj conj_physical copysign cos cosh cross deg2rad diff digamma div divide eq
erf erfc erfinv exp exp2 expm1 fix float_power floor floor_divide fmax fmin fmod frac frexp gcd ge ger gradient
greater greater_equal gt heaviside hypot i0 igamma igammac imag isclose isfinite isin isinf isnan isneginf isposinf
isreal kron lcm ldexp le lerp less less_equal lgamma linalg_cross log log10 log1p log2 logaddexp logaddexp2
logical_and logical_not logical_or logical_xor logit lt maximum minimum mul multiply mvlgamma nan_to_num ne neg
negative nextafter not_equal outer polar polygamma positive pow rad2deg real reciprocal relu remainder round rsqrt
rsub sgn sigmoid sign signbit sin sinc sinh special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0
special_bessel_y1 special_chebyshev_polynomial_t special_chebyshev_polynomial_u special_chebyshev_polynomial_v
special_chebyshev_polynomial_w special_digamma special_entr special_erf special_erfc special_erfcx special_erfinv
special_exp2 special_expit special_expm1 special_gammainc special_gammaincc special_gammaln
special_hermite_polynomial_h special_hermite_polynomial_he special_i0 special_i0e special_i1 special_i1e
special_laguerre_polynomial_l special_legendre_polynomial_p special_log1p special_log_ndtr special_logit
special_modified_bessel_i0 special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1
special_multigammaln special_ndtr special_ndtri special_polygamma special_psi special_round
special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 special_shifted_chebyshev_polynomial_t
special_shifted_chebyshev_polynomial_u special_shifted_chebyshev_polynomial_v special_shifted_chebyshev_polynomial_w
special_sinc special_spherical_bessel_j0 special_xlog1py special_xlogy special_zeta sqrt square sub subtract tan tanh
true_divide trunc where xlogy
"""
_REDUCTIONS = """
_segment_reduce all allclose amax amin aminmax any argmax argmin bincount count_nonzero cummax cummin cumprod cumsum
cumulative_trapezoid dist equal frobenius_norm hash_tensor histc histogram histogramdd is_nonzero kthvalue
linalg_vector_norm logcumsumexp logsumexp max mean median min mode nanmean nanmedian nanquantile nansum
norm_except_dim prod quantile segment_reduce special_logsumexp std std_mean sum trace trapezoid trapz var var_mean
"""
_ACTIVATIONS = """
_log_softmax _safe_softmax _softmax _threshold celu elu gelu glu gumbel_softmax hardshrink hardsigmoid hardswish
hardtanh leaky_relu log_sigmoid log_softmax logsigmoid mish prelu relu6 rrelu rrelu_with_noise selu silu softmax
softmin softplus softshrink softsign special_log_softmax special_softmax tanhshrink threshold
"""
_NORMALISATIONS = """
_batch_norm_impl_index _batch_norm_no_update _batch_norm_with_update _fused_rms_norm _native_batch_norm_legit
_native_batch_norm_legit_no_training _weight_norm _weight_norm_interface batch_norm batch_norm_elemt
batch_norm_gather_stats batch_norm_gather_stats_with_counts batch_norm_stats batch_norm_update_stats cudnn_batch_norm
embedding_renorm group_norm instance_norm layer_norm local_response_norm miopen_batch_norm native_batch_norm
native_group_norm native_layer_norm normalize quantized_batch_norm renorm rms_norm
"""
_POOLING = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
_upsample_nearest_exact2d _upsample_nearest_exact3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool1d_with_indices adaptive_max_pool2d adaptive_max_pool2d_with_indices
adaptive_max_pool3d adaptive_max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d fractional_max_pool2d
fractional_max_pool2d_with_indices fractional_max_pool3d fractional_max_pool3d_with_indices interpolate lp_pool1d
lp_pool2d lp_pool3d max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
max_pool3d_with_indices max_unpool1d max_unpool2d max_unpool3d quantized_max_pool1d quantized_max_pool2d
quantized_max_pool3d upsample upsample_bicubic2d upsample_bilinear upsample_bilinear2d upsample_linear1d
upsample_nearest upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""
_DROPOUT_AND_RANDOM = """
_sample_dirichlet _standard_gamma alpha_dropout bernoulli binomial cauchy constant dropout dropout1d dropout2d
dropout3d exponential feature_alpha_dropout feature_dropout fork_rng geometric get_rng_state initial_seed
kaiming_normal kaiming_uniform log_normal manual_seed multinomial native_dropout normal normal_like ones poisson rand
rand_like randint randint_like randn randn_like random randperm seed set_rng_state trunc_normal uniform xavier_normal
xavier_uniform zeros
"""
_LOSSES = """
_ctc_loss _cudnn_ctc_loss binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss
cosine_similarity cross_entropy cross_entropy_loss ctc_loss gaussian_nll_loss hinge_embedding_loss huber_loss kl_div
l1_loss margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss multilabel_margin_loss_forward
multilabel_soft_margin_loss nll_loss nll_loss2d nll_loss2d_forward nll_loss_forward nll_loss_nd pairwise_distance
poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss
"""
_LAYOUT = """
_cat _chunk_cat _conj _neg_view _pack_padded_sequence _pad_circular _pad_enum _pad_packed_sequence _reshape_alias
_reshape_copy _stack _unsafe_index _unsafe_masked_index _unsafe_masked_index_put_accumulate _unsafe_view adjoint alias
alias_copy as_strided as_strided_copy as_strided_scatter atleast_1d atleast_2d atleast_3d block_diag broadcast
broadcast_shapes broadcast_tensors broadcast_to cartesian_prod cat channel_shuffle chunk col2im column_stack
combinations concat concatenate constant_pad_nd contiguous detach detach_copy diag diag_embed diagflat diagonal
diagonal_copy diagonal_scatter dsplit dstack expand expand_as expand_copy fft_fftshift fft_ifftshift flatten flip
fliplr flipud fold hsplit hstack im2col linalg_diagonal meshgrid moveaxis movedim narrow narrow_copy
native_channel_shuffle one_hot pad permute permute_copy pixel_shuffle pixel_unshuffle ravel reflection_pad1d
reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d
reshape reshape_as resize resize_as resolve_conj resolve_neg roll rot90 row_stack select select_copy select_scatter
slice slice_copy slice_inverse slice_scatter split split_copy split_with_sizes split_with_sizes_copy squeeze
squeeze_copy stack sum_to_size swapaxes swapdims t t_copy tensor_split tile transpose transpose_copy tril triu unbind
unbind_copy unflatten unfold unfold_copy unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_copy
view view_as view_as_complex view_as_complex_copy view_as_real view_as_real_copy view_copy vsplit vstack
"""
_INDEXING = """
__contains__ __getitem__ __setitem__ _unique2 argsort argwhere bucketize embedding fill_diagonal gather index
index_add index_copy index_fill index_put index_reduce index_select masked_fill masked_scatter masked_select msort
nonzero nonzero_static put scatter scatter_add scatter_reduce searchsorted sort take take_along_dim topk unique
unique_consecutive unique_dim unravel_index
"""
_CREATION = """
arange as_tensor asarray bartlett_window blackman_window empty empty_like empty_permuted empty_strided eye fft_fftfreq
fft_rfftfreq fill from_dlpack from_file from_numpy frombuffer full full_like hamming_window hann_window kaiser_window
lift_fresh lift_fresh_copy linalg_vander linspace logspace nested_tensor new new_empty new_empty_strided new_full
new_ones new_tensor new_zeros ones_like range scalar_tensor sparse_compressed_tensor sparse_coo_tensor
sparse_csr_tensor tensor tril_indices triu_indices vander zero zeros_like
"""
# Functions that hand values to NumPy or another library are not among them: what is computed there is not seen.
_CONVERSION = """
__bool__ __complex__ __deepcopy__ __dlpack_device__ __float__ __index__ __int__ __long__ __nonzero__ __reduce_ex__
__reversed__ __setstate__ _local_scalar_dense _make_subclass _to_copy _to_dense as_subclass bfloat16 bool byte cdouble
cfloat chalf char coalesce copy cpu cuda dequantize double fake_quantize_per_channel_affine
fake_quantize_per_tensor_affine float half int int_repr ipu item long module_load mtia pin_memory quantize_per_channel
quantize_per_tensor quantize_per_tensor_dynamic set set_data share_memory short sparse_mask to to_dense to_mkldnn
to_padded_tensor to_sparse to_sparse_coo to_sparse_csr tolist type type_as xpu
"""
# They look at a tensor, or at a setting, and compute nothing.
_QUERIES = """
__cuda_array_interface__ __dir__ _assert _assert_async _assert_scalar _assert_tensor_metadata
_autocast_to_full_precision _autocast_to_reduced_precision _coalesced _dimI _dimV _enter_autocast _exit_autocast
_functional_assert_async _has_compatible_shallow_copy_type _indices _is_all_true _is_any_true _is_view
_nested_get_offsets _nested_get_values _nested_tensor_from_mask_left_aligned _nested_tensor_size
_nested_tensor_storage_offsets _nested_tensor_strides _nnz _set_grad_enabled _values autocast_decrement_nesting
autocast_increment_nesting can_cast ccol_indices clear_autocast_cache col_indices const_data_ptr crow_indices
current_device dense_dim device dim_order dtype get_default_dtype get_device_capability indices is_autocast_enabled
is_available is_coalesced is_conj is_cpu is_distributed is_grad_enabled is_inference is_inference_mode_enabled is_leaf
is_neg is_pinned is_same_size is_set_to is_shared is_signed is_sparse itemsize layout names nbytes nelement output_nr
promote_types q_per_channel_axis q_per_channel_scales q_per_channel_zero_points q_scale q_zero_point qscheme
record_stream result_type retain_grad retains_grad row_indices set_autocast_dtype set_autocast_enabled
set_default_dtype set_grad_enabled shape sparse_dim storage storage_type sym_float sym_int sym_ite sym_max sym_min
sym_not sym_numel sym_size sym_storage_offset sym_stride sym_sum values
"""
_OPERATORS = (
    *("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"),
    *("ifloordiv", "rfloordiv"),
)
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "invert", "neg", "pos", "abs", "rsub", "divmod", "rdivmod")

_GROUPS = (
    *(_ELEMENTWISE, _REDUCTIONS, _ACTIVATIONS, _NORMALISATIONS, _POOLING, _DROPOUT_AND_RANDOM, _LOSSES, _LAYOUT),
    *(_INDEXING, _CREATION, _CONVERSION, _QUERIES),
)
FREE_FUNCTIONS = frozenset(
    [
        *(name for group in _GROUPS for name in group.split()),
        *(f"__{prefix}{name}__" for prefix in ("", "i", "r") for name in _OPERATORS),
        *(f"__{name}__" for name in _COMPARISONS),
    ]
)
