"""A fingerprint that is read from answers: secret images, and what each copy says to them.

For each query image there are two classes that the base model is torn between. A copy is taught to
answer with the one or the other, by a bit of its customer's codeword. Whoever serves a copy behind
an interface so answers for its customer; labels are enough. Design (ours) and what was measured:
docs/decisions/0009-queries.md. Related: backdoor watermarks (Adi et al., USENIX Security 2018),
Tardos codes in answers (BlackCATT, arXiv 2602.12138).
"""
