"""Per-customer model fingerprints and traitor tracing for federated learning with Flower.

Data flows one way: scenario -> Flower -> strategy -> issuing -> copies and registry -> verifying ->
evidence. ``docs/architecture.md`` is the map, ``docs/glossary.md`` the words.
"""

__version__ = "0.1.0"
