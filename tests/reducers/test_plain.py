from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from vtprune.reducers.drop import Drop
from vtprune.reducers.evict_kv import EvictKV
from vtprune.reducers.merge import Merge


@pytest.mark.parametrize(("reducer", "site"), [(Drop(), "hidden"), (Merge(), "hidden"), (EvictKV(), "kv")])
def test_each_serves_one_kind_of_site(reducer, site):
    assert reducer.sites == {site}


@pytest.mark.parametrize("reducer", [Drop(), EvictKV()])
def test_plain_removal_changes_no_feature(reducer):
    assert reducer.merge(torch.ones(1, 2, 3), torch.tensor([[True, False]]), torch.ones(1, 2)) is None


@pytest.mark.parametrize("kind", [Drop, EvictKV])
def test_there_is_nothing_to_set(kind):
    with pytest.raises(ValidationError):
        kind(weighting="mean")
