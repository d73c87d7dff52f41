"""The demo: a real API server, this host as a node, the operator and the reporter as processes, and a story.

Read `story` first; it is what is shown, top to bottom. This room may import every other one and is imported by
none. It decides nothing and knows no private part of the operator: what it shows and checks it reads from the API
server. It writes to a cluster that it did not start only with the user's consent, and there only objects that
carry its label.
"""
