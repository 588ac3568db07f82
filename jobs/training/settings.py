"""What every network can be told about its training, readable without torch."""

from jobs.settings import Setting

TRAINING = (
    Setting(name="learning_rate", type="float", default=1e-3, above=0.0, high=10.0, doc="Adam's step size"),
    Setting(name="weight_decay", type="float", default=0.0, low=0.0, high=10.0, doc="Adam's L2 coefficient"),
    Setting(name="epochs", type="int", default=3, low=1, high=100_000, doc="passes over the training rows"),
    Setting(name="batch_size", type="int", default=128, low=1, high=1_000_000, doc="titles a step"),
    Setting(name="freeze_embeddings", type="bool", default=True, doc="keep the word vectors as they were read"),
    Setting(
        name="shuffle",
        type="str",
        default="full",
        choices=("full", "buffer"),
        doc="a true permutation an epoch, or the published pseudo-shuffle through a buffer",
    ),
    Setting(
        name="random_buffer_size",
        type="int",
        default=2048,
        low=1,
        doc="titles in the buffer of `shuffle: buffer`",
    ),
    Setting(name="bucket_by_length", type="bool", default=False, doc="batches of titles of similar length"),
    Setting(name="seed", type="int", default=0, low=0, high=2**31 - 1, doc="of initial weights, order and dropout"),
    Setting(
        name="keep",
        type="str",
        default="best",
        choices=("best", "last"),
        doc="evaluate the epoch best by validation balanced accuracy, or the last one as the published work did",
    ),
    Setting(
        name="patience",
        type="int",
        default=None,
        low=1,
        doc="stop after so many epochs without a better validation balanced accuracy; none: never (early_stopping)",
    ),
    Setting(
        name="patience_chance",
        type="int",
        default=3,
        low=1,
        doc="epochs at chance level before the run is stopped",
    ),
    Setting(
        name="precision",
        type="str",
        default="float32",
        choices=("float32", "bfloat16"),
        doc="bfloat16: autocast of the matrix products, weights stay float32",
    ),
    Setting(name="compile", type="bool", default=False, doc="torch.compile the step"),
    Setting(name="deterministic", type="bool", default=True, doc="only deterministic algorithms"),
    Setting(
        name="device",
        type="str",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        plumbing=True,
        doc="auto: a GPU where the job has one",
    ),
    Setting(
        name="checkpoint_min",
        type="float",
        default=10.0,
        above=0.0,
        plumbing=True,
        doc="minutes between checkpoints inside an epoch",
    ),
)
