"""What can go wrong, as a tree with one root.

    DovetailError
    ├── InputError (ValueError)            an option, a prompt or a file of prompts
    │   └── ContextLengthError             more tokens than the context holds
    ├── BundleError (ValueError)           a bundle that is missing, damaged or foreign
    │   └── BundleVersionError             a manifest of a version that this release does not read
    ├── SourceError (ValueError)           a model that cannot be exported
    ├── ModelUseError (RuntimeError)       a model that is closed, another process's, or amid this thread's answer
    └── UnavailableError (RuntimeError)    a package or provider that this machine lacks

Every message is one line: "<what> must be <rule>, got <value>; <what to do next>".
"""

from __future__ import annotations


class DovetailError(Exception):
    """Root of all errors that this project raises on purpose."""


class InputError(DovetailError, ValueError):
    """A value from the caller is outside its bounds."""


class ContextLengthError(InputError):
    """Prompt and answer need more positions than the context holds."""


class BundleError(DovetailError, ValueError):
    """A bundle is missing, incomplete, altered or not one."""


class BundleVersionError(BundleError):
    """The manifest is of a version that this release does not read."""


class SourceError(DovetailError, ValueError):
    """A model cannot be exported, for a reason named in the message."""


class ModelUseError(DovetailError, RuntimeError):
    """A loaded model cannot be used now or here: it is closed, belongs to another process, or would wait for itself."""


class UnavailableError(DovetailError, RuntimeError):
    """This Python environment or machine lacks something that is needed."""
