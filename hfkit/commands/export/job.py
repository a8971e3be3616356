"""What is exported, and with which options."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hfkit.commands.merge import merge
from hfkit.records.source import Source


@dataclass(frozen=True)
class ExportJob:
    """A model to export.

    Args:
        name: of the model, for those who serve it.
        out: the folder that is made.
        dtype: by the names of llama.cpp's converter; None for the format's default.
        base: where an adapter's base is, if not where the adapter says.
        keep_adapter: whether an adapter is exported beside its base, and not merged.
        script: llama.cpp's converter, for the formats that need it.
    """

    source: Source
    tokenizer: PreTrainedTokenizerBase
    name: str
    out: Path
    dtype: str | None = None
    base: str | None = None
    keep_adapter: bool = False
    script: Path | None = None

    def merge_into(self, folder: Path, dtype: str) -> Path:
        """Merge the adapter into its base, and return the folder of the merged model."""
        return merge(self.source.path, folder, dtype, self.base, revision=self.source.revision)
