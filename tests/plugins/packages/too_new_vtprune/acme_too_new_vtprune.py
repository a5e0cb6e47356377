"""Must not be imported: its distribution asks for a vtprune that is not installed."""

import os
from pathlib import Path

if "ACME_TRACE" in os.environ:
    Path(os.environ["ACME_TRACE"]).write_text("acme_too_new_vtprune was imported")
raise AssertionError("the module of a plugin for another vtprune was imported")
