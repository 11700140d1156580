"""Text to token ids and back.

    text (user_text: from files) | messages | ids -> prompt_reader -> tokenizer -> ids
    chat_template: messages -> text, in template_sandbox (template_arguments, template_steps, template_budget)
    ids -> tokenizer -> text_stream (whole characters) -> stop_strings -> answer_text -> text

It knows no graph.
"""
