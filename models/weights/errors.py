"""Why weights cannot be found, fetched or loaded: the leaves of WeightsError, and UnknownModel."""

from models.errors import ASK_ADMINISTRATOR, OptionError, WeightsError


class UnknownModel(OptionError):
    """There is no model of this name."""

    code = "unknown_model"
    user_action = "Choose another model, then transcribe the recording again."


class ModelMissing(WeightsError):
    """The weights are not installed."""

    code = "model_missing"
    user_action = ASK_ADMINISTRATOR


class WeightsCorrupt(WeightsError):
    """A weights file is truncated, damaged, or not the one its name promises."""

    code = "weights_corrupt"
    user_action = ASK_ADMINISTRATOR


class UnsafeCheckpoint(WeightsError):
    """Loading the weights file would run code, or it holds objects other than numbers."""

    code = "unsafe_checkpoint"
    user_action = ASK_ADMINISTRATOR


class UnsupportedCheckpoint(WeightsError):
    """The file is intact but does not hold weights of a supported model."""

    code = "unsupported_checkpoint"
    user_action = ASK_ADMINISTRATOR


class UnsupportedPipeline(WeightsError):
    """The pipeline folder configures a pipeline that is not supported."""

    code = "unsupported_pipeline"
    user_action = ASK_ADMINISTRATOR


class NetworkUnavailable(WeightsError):
    """The server that offers the weights cannot be reached, or the connection was lost."""

    code = "network_unavailable"
    user_action = "Check the network, or export a bundle on another machine and import it here."


class AccessDenied(WeightsError):
    """The server requires an account that has accepted the model's conditions."""

    code = "access_denied"
    user_action = "Accept the model's conditions on its page, then fetch it with your token."


class ChecksumMismatch(WeightsError):
    """The downloaded or imported file is not the published one."""

    code = "checksum_mismatch"
    user_action = "Fetch or export the weights again."


class UnsafeBundle(WeightsError):
    """The bundle holds something that `export` never writes."""

    code = "unsafe_bundle"
    user_action = "Export the bundle again with `fieldscribe models export`."


class NoSpace(WeightsError):
    """The disk is full."""

    code = "no_space"
    user_action = "Free some space on the disk, then run the command again."


class CannotWriteWeights(WeightsError):
    """The weights folder, or the bundle, cannot be written."""

    code = "cannot_write_weights"
    user_action = "Choose another folder, or ask its owner for write access."
