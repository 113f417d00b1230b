"""How trained networks are used: faces in pictures and videos, export, evaluation, synthesis."""
