"""Settings that several architectures share, readable without torch."""

from jobs.settings import Setting

HIDDEN_LAYERS = Setting(
    name="hidden_layers",
    type="ints",
    default=[256, 128],
    items=0,
    low=1,
    high=65_536,
    doc="widths of the hidden layers; [] for none: a linear classifier of the pooled title",
)
DROPOUT = Setting(
    name="dropout", type="float", default=0.0, low=0.0, high=0.95, doc="share of each hidden layer dropped in training"
)
EMBEDDING_DROPOUT = Setting(
    name="embedding_dropout",
    type="float",
    default=0.0,
    low=0.0,
    high=0.95,
    doc="share of what the hidden layers are given (the pooled title) dropped in training",
)
WORD_DROPOUT = Setting(
    name="word_dropout",
    type="float",
    default=0.0,
    low=0.0,
    high=0.95,
    doc="share of a title's words hidden in training",
)
EMBEDDING_SCALE = Setting(
    name="embedding_scale",
    type="float",
    default=1.0,
    above=0.0,
    high=100.0,
    doc="the word vectors are multiplied by it at the start: 0.01 turns a random start into a small one",
)

WORDS = (EMBEDDING_SCALE, WORD_DROPOUT)
HEAD = (HIDDEN_LAYERS, DROPOUT, EMBEDDING_DROPOUT)
