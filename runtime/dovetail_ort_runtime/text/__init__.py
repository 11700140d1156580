"""Text to token ids and back. It knows no graph.

text | messages | ids -> prompt_reader (chat_template, in its sandbox) -> tokenizer -> ids
ids -> tokenizer -> text_stream (whole characters) -> stop_strings -> answer_text -> text
"""
