"""What is a device's own: the id of its medium, its keys, its trainer."""

import hashlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import nacl.utils

from device_sdk.adapters.choice import trainer_for
from device_sdk.config import DeviceConfig
from device_sdk.health import board_serial
from device_sdk.storage import Storage
from device_sdk.trainer import NumpyTrainer, Trainer
from protocol.errors import ConfigError
from protocol.messages import INSTALL_ID_BYTES

if TYPE_CHECKING:
    from device_sdk.identity import Keys

INSTALL_ID: Final = "install-id"


def own_install_id(storage: Storage) -> bytes:
    """Return the medium's own random id, bound to the board it is in: a cloned card has another.

    Drawn and stored the first time. Raises StorageError.
    """
    drawn = storage.load().get(INSTALL_ID)
    if drawn is None:
        drawn = nacl.utils.random(INSTALL_ID_BYTES)
        storage.store(INSTALL_ID, drawn)
    bound = hashlib.blake2b(drawn, key=board_serial()[:64], digest_size=INSTALL_ID_BYTES)
    return bound.digest()


def own_keys(config: DeviceConfig) -> "Keys | None":
    """Return the keys of a device in a secure task, None in another. Raises ConfigError."""
    if not config.identity.keys:
        return None
    from device_sdk.identity import read_keys  # noqa: PLC0415 - only secure tasks wait for it

    own = config.identity
    return read_keys(
        Path(own.keys),
        task=config.task,
        device=config.device,
        passphrase_file=own.passphrase_file,
    )


def make_trainer(config: DeviceConfig) -> Trainer:
    """Return the trainer that a configuration names. Raises ConfigError."""
    if not config.trainer:
        if not config.data.file:
            raise ConfigError("set data.file to an .npz with x and y, or trainer to your own class")
        from device_sdk.engine import load_samples  # noqa: PLC0415 - nobody else needs the engine

        return trainer_for(config.training, load_samples(config.data.file))
    module_name, _, class_name = config.trainer.partition(":")
    try:
        trainer = getattr(importlib.import_module(module_name), class_name)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"trainer {config.trainer!r}: {error}") from None
    if not isinstance(trainer, Trainer):
        raise ConfigError(f"trainer {config.trainer!r} is not a device_sdk.Trainer")
    return trainer


def keeps_budget(trainer: Trainer) -> bool:
    """Return whether a trainer is known to stay within an assignment's memory budget."""
    from device_sdk.features import FeatureTrainer  # noqa: PLC0415 - few devices have a budget

    return isinstance(trainer, NumpyTrainer | FeatureTrainer)
