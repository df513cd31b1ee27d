"""Attacks on what participants send and on what customers get, to find out who is recognised.

A failed attack is no evidence of protection: each has a control, the same attack on an unprotected
channel, and says nothing unless that succeeds. The attackers here know the model, the code, the
channel's settings and, where it helps them, the labels; never noise or other secrets.
"""
