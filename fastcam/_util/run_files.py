"""The files of a run's folder, by name."""

CHECKPOINT = "model.pt"
HISTORY = "history.csv"
SETTINGS = "settings.json"
RESULT = "result.json"
#: While it goes on: the state to resume from, and the weights of the lowest validation loss.
RESUME, BEST = "last.ckpt", "best.ckpt"
