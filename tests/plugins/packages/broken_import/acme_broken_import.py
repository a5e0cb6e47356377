"""Imports what is not installed."""

from no_such_package_of_acme import register

from vtprune.plugin import hookimpl

vtprune_register = hookimpl(register)
