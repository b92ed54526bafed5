"""Keras's names of losses, activations, optimizers and layers, and what torch has in their place."""

from __future__ import annotations

__all__ = ["in_torch"]

_CLASSES = "logits and class numbers, and no softmax before it"
_WORDS = {
    # Losses
    "mse": "'mse_loss' or 'MSELoss'",
    "mae": "'l1_loss' or 'L1Loss'",
    "mape": "'l1_loss' of (target - input) / target",
    "msle": "'mse_loss' of log1p of both",
    "mean_squared_error": "'mse_loss' or 'MSELoss'",
    "mean_absolute_error": "'l1_loss' or 'L1Loss'",
    "categorical_crossentropy": f"'cross_entropy' (takes {_CLASSES}, or rows of probabilities as targets)",
    "sparse_categorical_crossentropy": f"'cross_entropy' (takes {_CLASSES})",
    "binary_crossentropy": "'binary_cross_entropy_with_logits' (no sigmoid before it) or 'binary_cross_entropy'",
    "kl_divergence": "'kl_div' (takes logarithms as its input)",
    "kullback_leibler_divergence": "'kl_div' (takes logarithms as its input)",
    "poisson": "'poisson_nll_loss' (log_input=False for rates)",
    "huber": "'huber_loss' or 'HuberLoss'",
    "hinge": "'hinge_embedding_loss' or 'soft_margin_loss' (targets are 1 and -1)",
    "categorical_hinge": "'multi_margin_loss'",
    "cosine_similarity": "'cosine_similarity' (Keras's loss is its negative)",
    "cosine_proximity": "'cosine_similarity' (Keras's loss is its negative)",
    "logcosh": "'smooth_l1_loss', which is close to it",
    "log_cosh": "'smooth_l1_loss', which is close to it",
    "ctc": "'ctc_loss' (takes logarithms, time first)",
    # Activations
    "linear": "'Identity' as an activation, 'Linear' as a layer",
    "swish": "'silu'",
    "hard_sigmoid": "'hardsigmoid' (its slope is 1/6; in Keras 2 it was 1/5)",
    "hard_silu": "'hardswish'",
    "hard_swish": "'hardswish'",
    "exponential": "torch.exp, under a name of your own",
    "log_sigmoid": "'logsigmoid'",
    "hard_tanh": "'hardtanh'",
    "tanh_shrink": "'tanhshrink'",
    "hard_shrink": "'hardshrink'",
    "soft_shrink": "'softshrink'",
    # Optimizers
    "sgd": "'SGD' (lr for learning_rate)",
    "rmsprop": "'RMSprop' (lr for learning_rate, alpha for rho, and eps is 1e-08)",
    "adam": "'Adam' (lr for learning_rate, betas for beta_1 and beta_2, and eps is 1e-08)",
    "adamw": "'AdamW' (lr for learning_rate, betas for beta_1 and beta_2, and eps is 1e-08)",
    "adagrad": "'Adagrad' (lr for learning_rate)",
    "adadelta": "'Adadelta' (lr for learning_rate, and it is 1.0)",
    "adamax": "'Adamax' (lr for learning_rate)",
    "nadam": "'NAdam' (lr for learning_rate)",
    "ftrl": "'Adagrad' (the nearest; torch has no Ftrl)",
    # Initializers
    **{
        f"{kind}_{draw}": f"torch.nn.init.{torchs}_{draw}_, which fills a tensor in place"
        for kind, torchs in (("glorot", "xavier"), ("he", "kaiming"))
        for draw in ("uniform", "normal")
    },
    # Layers
    "dense": "'Linear' (in_features and out_features for units; the activation is a module of its own)",
    "conv1d": "'Conv1d' (in_channels and out_channels for filters; channels first)",
    "conv2d": "'Conv2d' (in_channels and out_channels for filters; channels first)",
    "conv3d": "'Conv3d' (in_channels and out_channels for filters; channels first)",
    "conv2dtranspose": "'ConvTranspose2d' (in_channels and out_channels for filters; channels first)",
    "depthwiseconv2d": "'Conv2d' with groups=in_channels",
    "batchnormalization": "'BatchNorm1d', 'BatchNorm2d' or 'BatchNorm3d' (momentum is 1 - Keras's)",
    "layernormalization": "'LayerNorm'",
    "groupnormalization": "'GroupNorm'",
    "maxpooling1d": "'MaxPool1d'",
    "maxpooling2d": "'MaxPool2d'",
    "averagepooling2d": "'AvgPool2d'",
    "globalaveragepooling2d": "'AdaptiveAvgPool2d' (output_size=1) and 'Flatten'",
    "globalmaxpooling2d": "'AdaptiveMaxPool2d' (output_size=1) and 'Flatten'",
    "zeropadding2d": "'ZeroPad2d'",
    "upsampling2d": "'Upsample'",
    "activation": "the module itself: 'ReLU', 'Sigmoid', 'Tanh' …",
    "multiheadattention": "'MultiheadAttention' (embed_dim for key_dim times num_heads)",
    "timedistributed": "the module itself: Linear and others take any leading axes",
    "bidirectional": "bidirectional=True of 'LSTM', 'GRU' or 'RNN'",
    "simplernn": "'RNN'",
    "spatialdropout2d": "'Dropout2d'",
    "gaussiannoise": "a module of your own, under its name",
    "reshape": "'Unflatten', or x.reshape in forward",
    "permute": "x.permute in forward",
    "concatenate": "torch.cat in forward",
    "add": "x + y in forward",
    "lambda": "a function or a module of your own, under its name",
}


def in_torch(name: str) -> str | None:
    """What torch has for a name of Keras's, with the difference in arguments; None for a name that is not Keras's."""
    found = _WORDS.get(name.lower())
    return found or _WORDS.get(name.lower().replace("_", ""))
