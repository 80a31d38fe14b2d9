import models  # noqa: F401  # before torch, as in `fieldscribe`: threads wait as they do there
