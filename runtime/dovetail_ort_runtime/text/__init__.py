"""Text to token ids and back; it knows no graph.

text | messages | ids -> prompt (chat_template, in its sandbox) -> tokenizer -> ids
ids -> tokenizer -> text_stream (whole characters) -> stop_strings -> answer_text -> text
"""
