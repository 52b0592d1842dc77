"""The four papers, a page each: their stages in their order, with their defaults. Read these first; the other rooms hold the stages.

The functions are for one asset, and for networks that are on `device` already. Nodes call the stages themselves.
"""
