"""Bring the SDK onto devices: build a bundle, flash it, verify that the device has come.

One way for every Linux: a plan made from what is wanted and what is there, and a shell script of
the same lines whether the root file system is mounted here or lives behind ``ssh``.
"""
