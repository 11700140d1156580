"""`dovetail-ort serve` under the load of several clients; every answer is compared with that of the lone model.

    conversations -> clients ─┐
    server ───────────────────┴─> __main__ -> serve-load.json

Beforehand the library answers each request alone, greedily and without speculation. Then the server runs as a process
of its own. Each client has an address of its own (127.0.0.1, 127.0.0.2, ...; Linux) and streams one request after the
other through OpenAI's client: the general prompts and HumanEval's, some with a second turn, some held to a JSON schema.
Some streams are closed early.
"""
