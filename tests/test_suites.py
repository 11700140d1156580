"""Sets of prompts in files of any system."""

from __future__ import annotations

from dovetail_ort.suites import load_suite


def test_prompts_of_a_suite_may_have_marks_and_separators(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "b\xe2\x80\xa8c"}\n')
    assert [prompt.messages[0]["content"] for prompt in load_suite(str(path))] == ["a", "b\u2028c"]
