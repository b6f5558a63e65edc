"""The sample configurations that `fedbus init` writes. docs/configuration.md has every key."""
