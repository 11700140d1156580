"""OpenAI's own client against the server: whole and streamed, at once and one after the other."""

from __future__ import annotations

import asyncio
import math

import openai
import pytest

from dovetail_ort_runtime.options import GenerationOptions, SamplingOptions

MESSAGES = [{"role": "user", "content": "What holds the pins?"}]
PROMPT = "The tails hold the pins, the tails hold the pins"


def test_chat_gives_the_model_s_own_answer(client, model):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=40)
    expected = model.generate(MESSAGES, GenerationOptions(max_new_tokens=40, max_draft_tokens=0))
    choice = answer.choices[0]
    assert choice.message.content == expected.text
    assert choice.message.role == "assistant"
    assert choice.finish_reason == expected.finish_reason
    assert (answer.object, answer.model, len(answer.choices)) == ("chat.completion", "tiny", 1)


def test_completion_continues_the_text(client, model):
    answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=40)
    assert answer.choices[0].text == model.generate(PROMPT, GenerationOptions(max_new_tokens=40)).text
    assert answer.object == "text_completion"


def test_completion_takes_token_ids_and_sixteen_tokens_unless_told_otherwise(client, model):
    by_ids = client.completions.create(model="tiny", prompt=model.token_ids(PROMPT))
    assert by_ids.choices[0].text == client.completions.create(model="tiny", prompt=[PROMPT]).choices[0].text
    assert by_ids.usage.completion_tokens == 16


@pytest.mark.parametrize("temperature", [0, 1])
def test_chat_stream_adds_up_to_the_whole_answer(client, temperature):
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 40, "temperature": temperature, "seed": 3}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_completion_stream_ends_with_the_usage_when_asked(client):
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 30}
    whole = client.completions.create(**asked)
    *chunks, last = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (whole.usage.prompt_tokens, 30)


def test_async_client_gets_several_streams_at_once(served, client):
    prompts = [PROMPT, "def fibonacci(n):", "café 3 €", "A dovetail joint"]
    expected = [client.completions.create(model="tiny", prompt=prompt).choices[0].text for prompt in prompts]

    async def stream(asking, prompt):
        chunks = await asking.completions.create(model="tiny", prompt=prompt, stream=True)
        return "".join([chunk.choices[0].text async for chunk in chunks])

    async def all_streams():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as asking:
            return await asyncio.gather(*(stream(asking, prompt) for prompt in prompts))

    assert asyncio.run(all_streams()) == expected


def test_chunks_say_which_tokens_were_drafted_and_usage_counts_them(client):
    asked = {
        "model": "tiny",
        "prompt": PROMPT * 4,
        "max_tokens": 400,
        "logprobs": 0,
    }  # with those every token has a chunk
    *chunks, last = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    details = last.usage.completion_tokens_details
    drafted = [chunk.dovetail["drafted"] for chunk in chunks[:-1]]
    assert sum(drafted) == details.accepted_prediction_tokens > 0
    rounds = chunks[-1].dovetail
    assert rounds["rounds"] == len(drafted) - 1 - sum(drafted)
    assert rounds["accepted_length"] > 1


def test_second_turn_reads_only_what_is_new(client):
    first = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=12)
    turn = {"role": "assistant", "content": first.choices[0].message.content}
    conversation = [*MESSAGES, turn, {"role": "user", "content": "And the tails?"}]
    second = client.chat.completions.create(model="tiny", messages=conversation, max_tokens=1)
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert first.usage.prompt_tokens <= cached < second.usage.prompt_tokens


def test_stop_strings_end_the_answer_and_are_left_out(client):
    free = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=60).choices[0].text
    stop = free[10:13]
    held = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=60, stop=[stop, "never in it"])
    assert held.choices[0].text == free[: free.index(stop)]
    assert held.choices[0].finish_reason == "stop"


def test_sampling_is_the_request_s(client, model):
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 40}
    sampling = {"temperature": 0.9, "top_p": 0.95, "seed": 11}
    answers = [client.completions.create(**asked, **sampling).choices[0].text for _ in range(2)]
    options = GenerationOptions(max_new_tokens=40, sampling=SamplingOptions(**sampling))
    assert answers == [model.generate(PROMPT, options).text] * 2
    assert client.completions.create(**asked).choices[0].text != answers[0]


def test_chat_logprobs_name_every_token_of_the_text(client):
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 20, "logprobs": True, "top_logprobs": 2}
    choice = client.chat.completions.create(**asked).choices[0]
    entries = choice.logprobs.content
    assert len(entries) == 20
    assert b"".join(bytes(entry.bytes) for entry in entries).decode(errors="replace") == choice.message.content
    for entry in entries:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 2
        assert math.isclose(entry.logprob, entry.top_logprobs[0].logprob)  # greedy
    streamed = [
        entry
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert streamed == entries


def test_completion_logprobs_have_offsets_of_their_tokens(client):
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 20, "logprobs": 1}
    choice = client.completions.create(**asked).choices[0]
    whole = choice.logprobs
    assert len(whole.tokens) == len(whole.token_logprobs) == len(whole.top_logprobs) == 20
    for token, offset in zip(whole.tokens, whole.text_offset, strict=True):
        assert token.startswith("bytes:") or choice.text.startswith(token, offset)
    chunks = client.completions.create(**asked, stream=True)
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [offset for part in parts for offset in part.text_offset] == whole.text_offset


def test_end_of_text_has_no_entry(client):
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 20, "logprobs": True}
    answer = client.chat.completions.create(**asked, response_format={"type": "regex", "regex": "pins"})
    assert answer.choices[0].message.content == "pins"
    assert answer.choices[0].finish_reason == "stop"
    assert "".join(entry.token for entry in answer.choices[0].logprobs.content) == "pins"


def test_messages_may_be_made_of_text_parts_and_name_a_developer(client):
    parts = [{"type": "text", "text": "What holds "}, {"type": "text", "text": "the pins?"}]
    asked = {"model": "tiny", "max_tokens": 12}
    plain = client.chat.completions.create(
        messages=[{"role": "system", "content": "Be short."}, *MESSAGES], **asked
    ).choices[0]
    cut = client.chat.completions.create(
        messages=[{"role": "developer", "content": "Be short."}, {"role": "user", "content": parts}], **asked
    ).choices[0]
    assert cut.message.content == plain.message.content


def test_an_answer_can_be_sent_back_as_the_client_holds_it(client):
    message = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=5).choices[0].message
    conversation = [*MESSAGES, message.model_dump(), *MESSAGES]
    assert client.chat.completions.create(model="tiny", messages=conversation, max_tokens=5).choices


def test_the_model_is_listed_and_no_other_is_there(client):
    assert [entry.id for entry in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="model must be tiny, got 'gpt-4'") as refused:
        client.models.retrieve("gpt-4")
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
