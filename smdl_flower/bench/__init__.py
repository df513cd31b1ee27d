"""Attacks x copies of one run -> what a thief keeps, and whom the owner names for it.

``plan`` says what is tried, ``subject`` opens the run, ``trials`` tries, ``record`` keeps
``bench.json``, ``efficiency`` compares with theory, ``summary`` counts, ``page`` explains. Thieves
have copies and images of the source's training part; accuracy is measured on its test images.
"""
