"""The `cellplm` command: gathers the commands, and turns errors into one line and a code.

Exit code 0: done; 1: the work failed; 2: wrong usage.
"""

from __future__ import annotations

import os
import sys
import warnings

import typer

from cellplm.cli import demo, embed, export, finetune, info, ingest, pretrain
from cellplm.errors import CellplmError, ConfigError

# Read when torch loads its OpenMP. Threads that spin while they wait take the cores from
# others on a busy machine: a training step took 2.5 times the CPU-seconds (docs/benchmarks.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="cellplm",
    help="Single-cell and spatial files in, a corpus out, a trained CellPLM model at the end.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ingest")(ingest.ingest)
app.command("info")(info.info)
app.command("export")(export.export)
app.command("pretrain")(pretrain.pretrain)
app.add_typer(finetune.app, name="finetune")
app.command("embed")(embed.embed)
app.command("demo")(demo.demo)


def main() -> None:
    """Run the command line."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    if not debug:
        warnings.simplefilter("ignore")
    try:
        app()
    except CellplmError as error:
        if debug:
            raise
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {where}{error.strerror or error}; --debug says where.\n")
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        sys.stderr.write(f"error: {text} (this is a bug; --debug shows where it came from)\n")
        sys.exit(1)
