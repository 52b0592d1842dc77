"""What bench/hostile.py tries, and how it judges.

`table` says what is right for each kind of hostile input, `inputs` makes the cases, `feeds` feeds each node with what is sound, `files`
and `names` hold what comes as a file or a word, `pack` is a ComfyUI pack that spoils what passes through a socket, `server` runs a case
in a real ComfyUI, `verdict` judges what came of it.
"""
