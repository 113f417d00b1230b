"""Emotion, valence, arousal and dominance of the faces in pictures and videos.

from inference import EmotionRecognizer
for face in EmotionRecognizer().recognize("photo.jpg"):
    print(face.box, face.emotion, face.probabilities, face.valence, face.arousal, face.dominance)
"""

from inference.output import to_frame
from inference.recognizer import EmotionRecognizer, Face, Result

__all__ = ["EmotionRecognizer", "Face", "Result", "to_frame"]
