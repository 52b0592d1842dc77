"""What is right for each kind of hostile input: one row a kind, by socket type, by kind of widget and by kind of file.

A row names what may come of it: "value" (a success), "warn" (a success with a warning on the node), "refuse" (an error in plain words).
Names of spoiled payloads are those of `pack.spoil`, which makes them.
"""

from __future__ import annotations

VALUE, REFUSE, WARN = frozenset(["value"]), frozenset(["refuse"]), frozenset(["warn"])
EITHER, SAID = VALUE | REFUSE, WARN | REFUSE  # the node may know better; never in silence
Row = frozenset[str]


def rows(**kinds: tuple[Row, str]) -> dict[str, Row]:
    return {name: row for row, names in kinds.values() for name in names.split("; ")}


NO_PAYLOAD = {
    "nothing": REFUSE, "a word": REFUSE, "a number": REFUSE, "an empty list": REFUSE, "a dictionary": REFUSE, "an empty object": REFUSE,
}  # fmt: skip
IMAGE = rows(
    no=(
        REFUSE,
        "NaN in one place; infinity in one place; all NaN; all minus infinity; no frames; no rows; one dimension; six dimensions; complex; "
        "2 channels; 5 channels; channels first",
    ),
    yes=(VALUE, "1 channel; uint8; uint16; float64; float16; not contiguous; wants a gradient; a little outside"),
    either=(
        EITHER,
        "1 x 1 pixels; 3 x 2 pixels; very wide; very tall; odd size; not square; bool; alpha; alpha of zeros; black; white; noise; "
        "one picture without a batch; a list of frames; a NumPy array",
    ),
    said=(SAID, "numbers up to 255; numbers from -1 to 1; 1e30; int64"),
    counted=(REFUSE, "one frame too few; one frame too many"),
)
MASK = rows(
    no=(
        REFUSE,
        "NaN in one place; infinity in one place; all NaN; all minus infinity; no frames; no rows; one dimension; six dimensions; complex; "
        "three channels",
    ),
    yes=(VALUE, "float64; float16; uint8; not contiguous; wants a gradient; bool"),
    either=(
        EITHER,
        "another size; another aspect; 1 x 1 pixels; full; half everywhere; one pixel; one frame empty; noise; "
        "negative; one channel behind; one channel before; one mask without a batch; a list of frames; a NumPy array",
    ),
    empty=(SAID, "empty"),
    said=(SAID, "inverted; numbers up to 255"),
    counted=(REFUSE, "one frame too few; one frame too many"),
)
CAMERAS = rows(
    no=(
        REFUSE,
        "NaN in a pose; NaN in a lens; infinitely far; scaled axes; axes of zero; mirrored; sheared; last row is not 0 0 0 1; "
        "focal length 0; focal length negative; no views; for no asset; too few names; poses of 3 x 4; poses as lists; a list of cameras",
    ),
    either=(
        EITHER,
        "focal length 1e30; focal length 1e-30; 1e30 away; far away; in the object's middle; looking away; all the same; "
        "principal point outside; for one asset; names that are numbers; float64; whole numbers",
    ),
    counted=(REFUSE, "one view too few; one view too many"),
    assets=(SAID, "for three assets"),
)
LOAD3D = rows(
    no=(
        REFUSE,
        "NaN in the position; position of two numbers; position as words; zoom 0; zoom negative; zoom NaN; zoom as a word; "
        "quaternion of NaN; no keys; a list of words",
    ),
    either=(
        EITHER | WARN,
        "position in the target; no target; position 1e30; fov 0; fov 360; quaternion of zeros; orthographic; an empty list; a list of two",
    ),
)
MESH = rows(
    no=(
        REFUSE,
        "no faces; no vertices; no meshes; NaN in a vertex; infinity in a vertex; an index too large; an index of 2^62; a negative index; "
        "faces of halves; faces of NaN; faces of four corners; vertices of two numbers; vertices of complex; fewer face lists than meshes; "
        "no faces attribute; counts too large; counts negative; counts of float; counts for no mesh; counts as words",
    ),
    yes=(VALUE, "faces of int32; faces of uint8; vertices of float64; lists of tensors"),
    either=(
        EITHER | WARN,
        "one face; all in one point; all in one plane; faces of one vertex; 1e18 wide; 1e-30 wide; far from the origin; faces of float; "
        "vertices of int64; lists of lists; no batch; counts of vertices alone; texture of one channel; texture with alpha; "
        "texture of uint8; colours of uint8; colours with alpha",
    ),
    said=(
        SAID,
        "1e30 wide; NaN in uvs; infinity in uvs; uvs of 1e30; uvs of another count; uvs of one number; NaN in the texture; "
        "texture of seven channels; texture of no pixels; texture of numbers up to 255; texture for two meshes; texture without uvs; "
        "texture as words; NaN in colours; colours of another count; colours of one channel; colours up to 255; colours of 1e30; "
        "NaN in normals; normals of another count; NaN in tangents; material as a word; material of nonsense; "
        "NaN in metallic_roughness; NaN in normal_map; NaN in emissive; metallic_roughness of two channels; normal_map of two channels; "
        "emissive of two channels; metallic_roughness without pixels; normal_map without pixels; emissive without pixels",
    ),
)
_PARTS = ("positions", "scales", "rotations", "opacities", "sh")
SPLAT = {
    **{f"{fault} {name}": REFUSE for name in _PARTS for fault in ("NaN in", "infinity in")},
    **{f"{name} one short": REFUSE for name in _PARTS},
    **rows(
        no=(
            REFUSE,
            "scales of 0; scales negative; scales as logarithms; quaternions of zeros; harmonics of two terms; no Gaussians; no assets; "
            "no batch; counts too large; counts negative; counts for no asset; no positions; opacities of 50; "
            "opacities as logits",
        ),
        yes=(VALUE, "float64"),
        either=(
            EITHER | WARN,
            "all zeros; counts of 0; scales of 1e-30; positions all the same; opacities of 0; harmonics of 25 terms; one Gaussian; "
            "lists of tensors; whole numbers; "
            "counts as a list",
        ),
        said=(SAID, "scales of 1e30; positions of 1e30; harmonics of 1e30"),
    ),
}
VOXEL = rows(
    no=(REFUSE, "NaN in a cell; infinity in a cell; no cells; no assets; coordinates; complex; a list; no data"),
    either=(EITHER | WARN, "all 0; all 1; negative; 1e30; one cell; not a cube; three assets; bool"),
)
FIELD = rows(
    no=(REFUSE, "NaN in its numbers; a list of words; a list with nothing"),
    either=(EITHER | WARN, "1e30 in its numbers; no surface; not in a list"),
)
RUN = rows(
    no=(REFUSE, "NaN in its numbers; of another stage; no stage; losses as a word; no tensors; nothing about it"),
)
CONDITIONING = rows(
    no=(REFUSE, "NaN in its tokens; no tokens; tokens of two dimensions; tokens as a word; no dictionary"),
    either=(EITHER, "tokens of another width"),  # the model says so when it is asked
)
SOCKETS: dict[str, dict[str, Row]] = {
    "IMAGE": IMAGE, "MASK": MASK, "LATHE_CAMERAS": CAMERAS, "LOAD3D_CAMERA": LOAD3D, "MESH": MESH, "SPLAT": SPLAT, "VOXEL": VOXEL,
    "LATHE_FIELD": FIELD, "LATHE_DISTILLATION": RUN, "CONDITIONING": CONDITIONING,
}  # fmt: skip
COUNTED = {"one frame too few", "one frame too many", "one view too few", "one view too many", "for three assets"}
"""Wrong only where something else has to come in the same number."""
LOOKED_AT = {"inverted", "empty", "of another stage", "numbers up to 255", "numbers from -1 to 1", "1e30", "int64"}
"""Wrong only for a node that looks at it; one that hands it on asks nothing."""

# Values of widgets. "below" and "above" lie just outside the widget's bounds, "lowest" and "highest" on them.
_WORDS = (REFUSE, "'a word'; None; [1, 2]; {}; a tensor of three")
INT_LINKED = rows(
    no=(REFUSE, "below; above; nan; inf; -inf; 1e30; 2**40; 2**65; -2**65"), words=_WORDS, yes=(VALUE, "the default as a NumPy number"),
    either=(EITHER | WARN, "2.5; 2.0; True; '2'; a tensor of 1; lowest; highest; 1j"),
)  # fmt: skip
FLOAT_LINKED = rows(
    no=(REFUSE, "below; above; nan; inf; -inf; 1e30; -1e30; 1e400; 2**65"), words=_WORDS, yes=(VALUE, "the default as a NumPy number"),
    either=(EITHER | WARN, "True; '2'; a tensor of 1; lowest; highest; 1e-30; 1j"),
)  # fmt: skip
INT_TYPED = rows(no=(REFUSE, "below; above; nan; inf; 1e30; 2**65; None; 'a word'; {}"), either=(EITHER, "2.5; '2'; True; lowest; highest"))
FLOAT_TYPED = rows(no=(REFUSE, "below; above; nan; inf; -inf; 1e30; None; 'a word'; {}"), either=(EITHER, "'2'; True; lowest; highest"))
BOOLEAN_LINKED = rows(
    no=(REFUSE, "nan; None; 'a word'; [1, 2]; {}; a tensor of three"), either=(EITHER | WARN, "2; 0; ''; the default as a NumPy number")
)
COMBO_LINKED = rows(
    no=(REFUSE, "'no such choice'; ''; None; 7; nan; [1, 2]; {}; NUL; a lone surrogate; '../../secret'; '/etc/passwd'"),
)
STRING_LINKED = rows(no=(REFUSE, "None; 7.5; [1, 2]; {}; nan; a tensor of three"))
WIDGETS: dict[tuple[str, str], dict[str, Row]] = {
    ("INT", "typed"): INT_TYPED, ("INT", "linked"): INT_LINKED, ("FLOAT", "typed"): FLOAT_TYPED, ("FLOAT", "linked"): FLOAT_LINKED,
    ("BOOLEAN", "linked"): BOOLEAN_LINKED, ("COMBO", "linked"): COMBO_LINKED, ("STRING", "linked"): STRING_LINKED,
}  # fmt: skip
SLOW = {"highest"}
"""Sound, however long it takes: such a run is cancelled, and the end must follow soon."""
