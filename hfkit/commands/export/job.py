"""The model to export and the options of the export."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hfkit.commands.merge import merge
from hfkit.records.source import Source


@dataclass(frozen=True)
class ExportJob:
    """A model to export.

    Args:
        name: of the model when it is served.
        out: the folder to create.
        dtype: by the names of llama.cpp's converter; None for the format's default.
        base: path of an adapter's base; default is the one that the adapter names.
        keep_adapter: whether an adapter is exported with its base, not merged.
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
