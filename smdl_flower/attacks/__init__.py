"""What a thief may do to copies before leaking them, knowing only what a thief has.

An attack sees copies and images of the thief's own; never a key, the registry or the base model (an
import contract). :data:`catalogue.ATTACKS` names them all.
"""
