"""Finds speech in a recording: 16 kHz mono 16-bit WAV in, `[{"start": 0.4, "end": 1.9}, ...]` in seconds out.

The model is silero-vad's TorchScript, which says for each 32 ms how likely it is that somebody speaks.
"""

import io
import wave

import torch
from ts.torch_handler.base_handler import BaseHandler

RATE_HZ = 16_000
#: What the model takes at once.
WINDOW = 512
WINDOW_S = WINDOW / RATE_HZ
#: Speech begins above the first and ends below the second: one doubtful window changes nothing.
BEGIN_ABOVE, END_BELOW = 0.5, 0.35
#: Shorter gaps are breaths, shorter segments are clicks.
GAP_LIMIT_S, SEGMENT_LIMIT_S = 0.2, 0.25


class VoiceHandler(BaseHandler):
    """Recordings are heard one after the other: the model carries state from window to window."""

    def handle(self, data, context):
        """Answer each recording; one that can't be read fails alone."""
        answers = []
        for index, row in enumerate(data):
            try:
                sound = read_wav(row.get("data") or row.get("body") or b"")
            except (ValueError, wave.Error, EOFError) as error:
                context.set_response_status(400, "Bad Request", index)
                answers.append({"error": f"wanted a WAV of {RATE_HZ} Hz, mono, 16 bit: {error}"})
                continue
            answers.append(segments(self.chances(sound)))
        return answers

    def chances(self, sound):
        """Return how likely speech is in each window."""
        padded = torch.nn.functional.pad(sound, (0, -len(sound) % WINDOW)).to(self.device)
        self.model.reset_states()
        with torch.inference_mode():
            return [self.model(window.unsqueeze(0), RATE_HZ).item() for window in padded.split(WINDOW)]


def read_wav(content):
    """Return the samples of a recording, from -1 to 1."""
    with wave.open(io.BytesIO(content)) as file:
        form = (file.getframerate(), file.getnchannels(), file.getsampwidth())
        if form != (RATE_HZ, 1, 2):
            raise ValueError(f"this one has {form[0]} Hz, {form[1]} channels, {form[2] * 8} bit")
        frames = file.readframes(file.getnframes())
    return (
        torch.frombuffer(bytearray(frames), dtype=torch.int16).float() / 32768 if frames else torch.zeros(0)
    )


def segments(chances):
    """Join windows of speech into segments, in seconds."""
    found = []
    is_speech = False
    for index, chance in enumerate(chances):
        is_speech = chance >= (END_BELOW if is_speech else BEGIN_ABOVE)
        if not is_speech:
            continue
        start, end = index * WINDOW_S, (index + 1) * WINDOW_S
        if found and start - found[-1][1] <= GAP_LIMIT_S:
            found[-1][1] = end
        else:
            found.append([start, end])
    return [
        {"start": round(start, 2), "end": round(end, 2)}
        for start, end in found
        if end - start >= SEGMENT_LIMIT_S
    ]
