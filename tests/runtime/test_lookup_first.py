import numpy as np

from dovetail_ort_runtime.lookup_first import LookupFirst
from dovetail_ort_runtime.prompt_lookup import PromptLookup
from dovetail_ort_runtime.sampling_options import SamplingOptions


def test_a_long_match_is_copied_and_a_short_one_left_to_the_model(drafters):
    model = drafters.Oracle([1, 2, 3, 4, 1, 2, 3, 9, 8], wrong=0.0)
    both = LookupFirst(PromptLookup((0, 0, 2)), model)
    both.rewind(0)
    both.begin(SamplingOptions())
    both.observe(np.array([1, 2, 3, 4, 1, 2]), np.zeros((6, 4), np.float32))
    assert both.propose(3, 5).token_ids.tolist() == [4, 1]
    both.observe(np.array([3]), np.zeros((1, 4), np.float32))
    assert both.propose(9, 5).token_ids.tolist() == [8]


def test_both_forget_what_is_rewound(drafters):
    model = drafters.Recorder()
    both = LookupFirst(PromptLookup((3,)), model)
    both.observe(np.array([5, 6, 7]), np.zeros((3, 4), np.float32))
    both.rewind(1)
    assert model.token_ids == [5]
    assert not len(both.propose(6, 4))
