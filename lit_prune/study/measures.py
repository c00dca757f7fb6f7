"""The numbers that a report knows of each run."""

__all__ = ["MEASURES"]

# name in results.csv, figures and claims -> what it is
MEASURES = {
    "best_train_acc": "highest training accuracy of an epoch",
    "best_val_acc": "highest validation accuracy of an epoch",
    "test_acc_at_best": "test accuracy of the epoch with the highest validation accuracy",
    "first_val_acc": "validation accuracy of the first epoch",
    "final_train_acc": "training accuracy of the last epoch",
    "final_val_acc": "validation accuracy of the last epoch",
    "final_test_acc": "test accuracy of the last epoch",
    "lowest_val_loss": "lowest validation loss of an epoch, in nats per image",
    "final_train_loss": "training loss of the last epoch, in nats per image",
    "final_val_loss": "validation loss of the last epoch, in nats per image",
    "final_test_loss": "test loss of the last epoch, in nats per image",
    "sparsity_start": "fraction of weights that were zero after pruning, before the first step",
    "sparsity_end": "fraction of weights that were zero after the last epoch",
    "sparsity_range": "largest less smallest sparsity at the ends of epochs",
    "sparsity_late_fall": "sparsity after two thirds of the epochs, less that after the last",
    "untouched": "fraction of weights that never received a gradient in this run",
    "untouched_pruned": "fraction of weights that were pruned and never received a gradient in this run",
    "epochs_to_99": "epochs until validation accuracy first reached 99% of its highest",
    "epochs": "epochs that were trained",
    "seconds_per_epoch": "median wall-clock seconds of an epoch, validation included",
}
