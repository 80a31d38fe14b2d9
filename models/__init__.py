"""Audio in, transcript out: a library that knows no web, database or user.

The modules at this level are the plain data (`transcript`), the pipeline and its smaller steps.
May import torch, openai-whisper and pyannote.audio, never `service`. `service` and `scripts` import
it; the API process only those modules that load no torch.
"""

from models.environment import set_library_variables

set_library_variables()  # here, because it must come before the import of any library
