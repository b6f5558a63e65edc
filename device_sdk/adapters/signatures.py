"""What a ``.tflite`` file must offer so that a device can train it: signatures, and names in them.

======== ============================ ========================= ===============================
key      inputs                       outputs                   what it does
======== ============================ ========================= ===============================
train    x, y, learning_rate          loss                      one step, and the loss before it
infer    x                            y                         outputs, without any softmax
save     none                         a tensor for each param   what the params are now
restore  a tensor for each param      anything                  sets the params
======== ============================ ========================= ===============================

They are those of TensorFlow's on-device training guide; only there, ``save`` and ``restore`` take
a file's path, and need TensorFlow's own operations, which small runtimes do not have. A file
without ``learning_rate`` steps as it was made to. Names in ``save`` and ``restore`` are those of
the layout, spelled as `tensor_key` has them; shapes are the layout's, mostly those of Keras, too.
"""

from typing import Final

TRAIN: Final = "train"
INFER: Final = "infer"
SAVE: Final = "save"
RESTORE: Final = "restore"

X: Final = "x"
Y: Final = "y"
LOSS: Final = "loss"
LEARNING_RATE: Final = "learning_rate"


def tensor_key(name: str) -> str:
    """Return the layout's ``0.dense.weight`` as ``dense_0_weight``, a name that Python can have."""
    position, word, tensor = name.split(".")
    return f"{word}_{position}_{tensor}"
