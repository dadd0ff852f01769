"""The page about a run of the demo: evidence in, one self-contained HTML file out; no server, no network."""
