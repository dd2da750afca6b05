"""What the columns of obs say of its cells: the instrument, and which rows are no good.

Only flags that can mean nothing else are taken; what a study calls quality is its own affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PLATFORM_COLUMNS = ("technology", "platform", "instrument", "assay")

# Column, in lower case -> what a row is where it says no.
FLAGS = {
    "valid": "marked as invalid",
    "is_valid": "marked as invalid",
    "in_tissue": "outside the tissue",
}
YES = ("1", "1.0", "true", "yes")
NO = ("0", "0.0", "false", "no")


def platform(obs: pd.DataFrame) -> str:
    """The one value of a column that names the instrument, or "unknown"."""
    for name in PLATFORM_COLUMNS:
        if name in obs.columns:
            values = obs[name].dropna().astype(str).unique()
            if len(values) == 1:
                return str(values[0])
    return "unknown"


def unfit(obs: pd.DataFrame) -> Mapping[str, NDArray[np.bool_]]:
    """Reason -> (n_obs,) the rows that a flag of obs excludes; see `Source.unfit`.

    A flag is a column of a name in `FLAGS` that holds nothing but yes and no. A missing value
    excludes nothing.
    """
    marked: dict[str, NDArray[np.bool_]] = {}
    for column in obs.columns:
        reason = FLAGS.get(str(column).lower())
        if reason is None:
            continue
        values = obs[column].astype(object)
        text = values.where(values.notna(), "").astype(str).str.strip().str.lower()
        no = text.isin(NO).to_numpy(dtype=bool)
        if no.any() and text.isin((*YES, *NO, "")).all():
            said = values[no].iloc[0]
            marked[f"{reason} ({column} = {said})"] = no
    return MappingProxyType(marked)
