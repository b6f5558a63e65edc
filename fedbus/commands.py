"""Every command of ``fedbus``: its name, where it is written, and the line of help about it.

A command's module is imported when the command is called, so that the others cost it nothing. The
line of help stands here a second time for the same reason; a test holds it to the docstring.
"""

from importlib import import_module
from typing import Final, NamedTuple

import typer


class Command(NamedTuple):
    """A command or a group of them. ``module`` has the function or the Typer as ``attribute``."""

    name: str
    module: str
    attribute: str
    text: str

    def add_to(self, app: typer.Typer) -> None:
        """Import what it is made of, and add it to a command line."""
        made = getattr(import_module(self.module), self.attribute)
        if isinstance(made, typer.Typer):
            app.add_typer(made, name=self.name)
        else:
            app.command(self.name)(made)

    def mention_in(self, app: typer.Typer) -> None:
        """Add its name and its line of help to a command line, and nothing that could be run."""
        app.command(self.name, help=self.text)(_never_called)


#: In the order of `fedbus --help`.
COMMANDS: Final = (
    Command(
        "demo",
        "fedbus.demo",
        "demo",
        "Train one model on real data, on devices that share none of it.",
    ),
    Command(
        "audit",
        "fedbus.audit.command",
        "audit",
        "Attack what a configuration reveals: gradient inversion, membership, a curious relay.",
    ),
    Command(
        "init",
        "fedbus.init",
        "init",
        "Make a federation: settings, keys, certificates and a broker, for one task and its"
        " devices.",
    ),
    Command(
        "doctor",
        "fedbus.doctor",
        "doctor",
        "Check a live broker from the aggregator's side and from a device's; say what to fix.",
    ),
    Command("watch", "fedbus.watch", "watch", "Show a running task, live, until Ctrl-C."),
    Command(
        "status",
        "fedbus.watch",
        "status",
        "Say what a task is waiting for and why. Exit status 0 if its aggregator is online,"
        " else 1.",
    ),
    Command(
        "export",
        "fedbus.export",
        "export",
        "Write a task's newest model as a .tflite file, for TensorFlow Lite and LiteRT.",
    ),
    Command(
        "load",
        "fedbus.load",
        "load",
        "Put thousands of devices on a broker, and see what it and the aggregator make of them.",
    ),
    Command(
        "simulate",
        "fedbus.simulate",
        "simulate",
        "Run a fleet of simulated devices in virtual time, and draw a report.",
    ),
    Command(
        "flash",
        "fedbus.flash",
        "flash",
        "Put SDK, configuration and service onto a device. Without --yes it says what it would do.",
    ),
    Command(
        "verify",
        "fedbus.flash",
        "verify",
        "Wait until a device is online on the broker. Exit status 0 if it came, else 1.",
    ),
    Command(
        "aggregator",
        "fedbus.aggregator",
        "app",
        "Run a task's aggregator, or check its configuration.",
    ),
    Command("broker", "fedbus.broker", "app", "Run an MQTT broker for a federation."),
    Command("devices", "fedbus.devices", "app", "See, quarantine, release and revoke devices."),
    Command("ca", "fedbus.ca", "app", "Certificates for TLS: make, show and renew them."),
    Command(
        "enrol",
        "fedbus.enrol",
        "app",
        "Enrol devices: `fedbus enrol DEVICE...` gives each a folder with all that it needs.",
    ),
    Command("model", "fedbus.model", "app", "Look at model specs."),
)


def _never_called() -> None:
    raise AssertionError("only what was called is added to be run")
