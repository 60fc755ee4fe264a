"""What the commands call: training, evaluation and the lines that every chart is drawn against."""
