"""What is heard in a recording: audio to a transcript. Nothing here knows of the service."""

from models.environment import set_library_variables

set_library_variables()  # here, because it must come before the import of any library
