"""An existing checkpoint, brought into the run so that later stages can start from it.

Any local Hugging Face directory of a causal language model with safetensors weights. Files are hard-linked where
the file system allows, else copied; the directory itself is never changed. A recipe that is for a checkpoint which it
cannot name says what it `expects`: it can then be planned, and run once there is a `path`.

Writes model/.
"""

import os
import shutil
from pathlib import Path

from pydantic import Field, model_validator

from ponderosa.artifacts import write_json
from ponderosa.errors import ConfigError
from ponderosa.formats import CHAT_CODE, FORMAT_FILE, get_format, load_format
from ponderosa.hash_cache import hash_directory
from ponderosa.model_directory import check_model_directory
from ponderosa.stages.model_shape import DecoderSizes
from ponderosa.stages.stage import Context, Outcome, StageConfig

VERSION = 1
MODEL = "model"


class Config(StageConfig):
    """Which checkpoint, and how it is to be asked."""

    path: str | None = Field(
        None, description="a local model directory, absolute or relative to the recipe", exclude=True
    )
    format: str | None = Field(
        None, description="a prompt format's name; unset takes the directory's own, else chat with code steps"
    )

    expects: DecoderSizes | None = Field(
        None, description="sizes to plan costs with while there is no `path`", exclude=True
    )

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.path is None and self.expects is None:
            raise ConfigError("'path' is required: a local model directory")
        return self

    def hash_inputs(self, base: Path) -> dict[str, str]:
        if self.path is None:
            return {}
        return {"checkpoint": hash_directory(find_checkpoint(self.path, base))}

    def find_missing(self) -> str | None:
        return "path=DIR, a local Hugging Face model directory" if self.path is None else None


def run(config: Config, context: Context) -> Outcome:
    assert config.path is not None, "a run begins only when nothing is missing"
    source = find_checkpoint(config.path, context.base)
    temporary = context.folder / f".{MODEL}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, copy_function=_link_or_copy)
    if config.format:
        prompt_format = get_format(config.format)
    elif (source / FORMAT_FILE).exists():
        prompt_format = load_format(source)
    else:
        prompt_format = CHAT_CODE
    (temporary / FORMAT_FILE).unlink(missing_ok=True)
    write_json(temporary / FORMAT_FILE, prompt_format.model_dump(mode="json"))
    shutil.rmtree(context.folder / MODEL, ignore_errors=True)
    os.replace(temporary, context.folder / MODEL)
    return Outcome(facts={"format": prompt_format.name})


def find_checkpoint(path: str, base: Path) -> Path:
    """The model directory. Raises DataError if it is not one."""
    folder = (base / Path(path).expanduser()).resolve()
    check_model_directory(folder)
    return folder


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
