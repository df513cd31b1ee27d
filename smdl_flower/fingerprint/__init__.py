"""White-box fingerprints: bits and carriers in the weights, and what reading them proves.

Everything secret comes from :mod:`keys`. :mod:`layout` says where marks live, :mod:`profile` how
much each weight can bear, :mod:`payload` and :mod:`carriers` what is put there, :mod:`embedding`
and :mod:`extraction` how it is written and read, :mod:`codes` and :mod:`accusation` what that
proves.
Nothing here can reach the registry or a customer's copy (assumption A3; an import contract).
"""
