"""Fields of requests that the server does not support: those that it ignores, and those that it refuses.

It knows no request.
"""

from __future__ import annotations

from typing import Final

from dovetail_ort.server.json_body import Neutral

# Fields of OpenAI's that change no answer here: accounts, tiers, hints for speed.
HARMLESS: Final = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prediction",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
)
_OF_TOOLS: Final = ("tools", "tool_choice", "functions", "function_call")
# Fields by which requests to other servers ask for a grammar; here it is `response_format`.
_RULES_OF_OTHERS: Final = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")
# Fields that would change the answer: OpenAI's, and those of other servers that many clients send.
_UNSUPPORTED: Final[Neutral] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    **dict.fromkeys(_RULES_OF_OTHERS, ()),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
}
UNSUPPORTED_BY_CHAT: Final[Neutral] = {
    **_UNSUPPORTED,
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "audio": (),
    "web_search_options": (),
}
UNSUPPORTED_BY_COMPLETIONS: Final[Neutral] = {**_UNSUPPORTED, "suffix": ("",)}
ADVICE: Final = {
    **dict.fromkeys(_OF_TOOLS, "this server finds no tool calls in an answer: ask without tools"),
    **dict.fromkeys(_RULES_OF_OTHERS, "say it in response_format"),
}
