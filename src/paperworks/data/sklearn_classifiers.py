"""The 68 classifiers that answer the embedded response table: 24 families, from coin tossers to boosted trees."""

from __future__ import annotations

from typing import Any

NEIGHBOURS = (1, 5, 11, 25)
LOGISTIC_C = (1e-3, 1e-2, 0.1, 1.0, 100.0)
SVM_C = (0.1, 1.0, 3.0, 10.0)


def classifiers(seed: int) -> dict[str, tuple[str, Any]]:
    """Name -> (family, unfitted scikit-learn classifier); features are standardised unless the name says raw."""
    return {**_simple(seed), **_linear(seed), **_kernels(seed), **_trees(seed), **_others(seed)}


def _scaled(*steps: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), *steps)


def _simple(seed: int) -> dict[str, tuple[str, Any]]:
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
    from sklearn.dummy import DummyClassifier
    from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
    from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler
    from sklearn.random_projection import GaussianRandomProjection

    found: dict[str, tuple[str, Any]] = {
        "dummy_most_frequent": ("dummy", DummyClassifier(strategy="most_frequent")),
        "dummy_stratified": ("dummy", DummyClassifier(strategy="stratified", random_state=seed)),
        "centroid": ("centroid", _scaled(NearestCentroid())),
        "centroid_raw": ("centroid", NearestCentroid()),
        "bayes_gaussian": ("naive_bayes", _scaled(GaussianNB())),
        "bayes_bernoulli": ("naive_bayes", _scaled(BernoulliNB())),
        "bayes_multinomial": ("naive_bayes", make_pipeline(MinMaxScaler(clip=True), MultinomialNB())),
        "bayes_complement": ("naive_bayes", make_pipeline(MinMaxScaler(clip=True), ComplementNB())),
    }
    for k in NEIGHBOURS:
        found[f"knn_{k}"] = ("knn", _scaled(KNeighborsClassifier(k)))
    # scikit-learn annotates these options by their defaults' types only, hence the exceptions here and below.
    projection = GaussianRandomProjection(4, random_state=seed)  # pyright: ignore[reportArgumentType]
    found |= {
        "knn_5_raw": ("knn", KNeighborsClassifier(5)),
        "knn_5_manhattan": ("knn", _scaled(KNeighborsClassifier(5, metric="manhattan"))),
        "knn_11_weighted": ("knn", _scaled(KNeighborsClassifier(11, weights="distance"))),
        "knn_5_pca_2": ("knn", _scaled(PCA(2, random_state=seed), KNeighborsClassifier(5))),
        "knn_5_projection_4": ("knn", _scaled(projection, KNeighborsClassifier(5))),
        "lda": ("lda", _scaled(LinearDiscriminantAnalysis())),
        "lda_shrunk": ("lda", _scaled(LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))),
    }
    for size in (2, 3):
        qda = _scaled(PCA(size, random_state=seed), QuadraticDiscriminantAnalysis(reg_param=0.01))
        found[f"qda_pca_{size}"] = ("qda", qda)
    return found


def _linear(seed: int) -> dict[str, tuple[str, Any]]:
    from sklearn.feature_selection import SelectKBest
    from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier

    found: dict[str, tuple[str, Any]] = {}
    for c in LOGISTIC_C:
        found[f"logistic_{c:g}"] = ("logistic", _scaled(LogisticRegression(C=c, max_iter=2000)))
    best = _scaled(SelectKBest(k=2), LogisticRegression(max_iter=2000))
    found["logistic_best_2_features"] = ("logistic", best)
    for alpha in (1.0, 100.0):
        found[f"ridge_{alpha:g}"] = ("ridge", _scaled(RidgeClassifier(alpha=alpha)))
    found["perceptron"] = ("perceptron", _scaled(Perceptron(random_state=seed)))
    for loss in ("hinge", "log_loss", "modified_huber"):
        found[f"sgd_{loss}"] = ("sgd", _scaled(SGDClassifier(loss=loss, random_state=seed)))
    return found


def _kernels(seed: int) -> dict[str, tuple[str, Any]]:
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.gaussian_process.kernels import RBF
    from sklearn.kernel_approximation import Nystroem, RBFSampler
    from sklearn.linear_model import LogisticRegression
    from sklearn.semi_supervised import LabelSpreading
    from sklearn.svm import SVC, NuSVC

    found: dict[str, tuple[str, Any]] = {"svm_linear": ("svm", _scaled(SVC(kernel="linear")))}
    for c in SVM_C:
        found[f"svm_rbf_{c:g}"] = ("svm", _scaled(SVC(C=c)))
    nystroem = Nystroem(gamma=0.02, n_components=60, random_state=seed)
    fourier = RBFSampler(gamma=0.02, n_components=60, random_state=seed)  # pyright: ignore[reportArgumentType]
    # Optimising the kernel would cost a minute; its length is set to what standardised features ask for.
    fixed: Any = {"optimizer": None, "random_state": seed}
    gaussian_process = GaussianProcessClassifier(RBF(5.0), **fixed)
    return found | {
        "svm_rbf_gamma_0.5": ("svm", _scaled(SVC(gamma=0.5))),  # pyright: ignore[reportArgumentType]
        "svm_poly": ("svm", _scaled(SVC(kernel="poly"))),
        "svm_sigmoid": ("svm", _scaled(SVC(kernel="sigmoid"))),
        "svm_nu": ("svm", _scaled(NuSVC(nu=0.3))),
        "nystroem": ("random_features", _scaled(nystroem, LogisticRegression(max_iter=2000))),
        "fourier_features": ("random_features", _scaled(fourier, LogisticRegression(max_iter=2000))),
        "gaussian_process": ("gaussian_process", _scaled(gaussian_process)),
        "label_spreading": ("label_spreading", _scaled(LabelSpreading(kernel="knn", n_neighbors=7))),
    }


def _trees(seed: int) -> dict[str, tuple[str, Any]]:
    from sklearn.ensemble import (
        AdaBoostClassifier,
        BaggingClassifier,
        ExtraTreesClassifier,
        GradientBoostingClassifier,
        HistGradientBoostingClassifier,
        RandomForestClassifier,
    )
    from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

    found: dict[str, tuple[str, Any]] = {}
    for depth in (1, 2, 4):
        found[f"tree_depth_{depth}"] = ("tree", DecisionTreeClassifier(max_depth=depth, random_state=seed))
    return found | {
        "tree": ("tree", DecisionTreeClassifier(random_state=seed)),
        "tree_leaf_10": ("tree", DecisionTreeClassifier(min_samples_leaf=10, random_state=seed)),
        "tree_entropy": ("tree", DecisionTreeClassifier(criterion="entropy", random_state=seed)),
        "extra_tree": ("extra_tree", ExtraTreeClassifier(random_state=seed)),
        "forest_10": ("forest", RandomForestClassifier(10, random_state=seed)),
        "forest_60": ("forest", RandomForestClassifier(60, random_state=seed)),
        "forest_depth_2": ("forest", RandomForestClassifier(40, max_depth=2, random_state=seed)),
        "extra_trees_10": ("extra_trees", ExtraTreesClassifier(10, random_state=seed)),
        "extra_trees_100": ("extra_trees", ExtraTreesClassifier(100, random_state=seed)),
        "bagging": ("bagging", BaggingClassifier(n_estimators=15, random_state=seed)),
        "bagging_half_features": ("bagging", BaggingClassifier(n_estimators=15, max_features=0.5, random_state=seed)),
        "adaboost_10": ("adaboost", AdaBoostClassifier(n_estimators=10, random_state=seed)),
        "adaboost_40": ("adaboost", AdaBoostClassifier(n_estimators=40, random_state=seed)),
        "boosting": ("boosting", GradientBoostingClassifier(n_estimators=10, random_state=seed)),
        "boosting_histograms": ("boosting_histograms", HistGradientBoostingClassifier(max_iter=10, random_state=seed)),
    }


def _others(seed: int) -> dict[str, tuple[str, Any]]:
    from sklearn.ensemble import VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neural_network import MLPClassifier
    from sklearn.tree import DecisionTreeClassifier

    found: dict[str, tuple[str, Any]] = {}
    for width in (2, 16, 64):
        mlp = MLPClassifier((width,), learning_rate_init=0.01, max_iter=60, random_state=seed)
        found[f"mlp_{width}"] = ("mlp", _scaled(mlp))
    members = [
        ("logistic", LogisticRegression(max_iter=2000)),
        ("bayes", GaussianNB()),
        ("tree", DecisionTreeClassifier(max_depth=4, random_state=seed)),
    ]
    found["vote"] = ("vote", _scaled(VotingClassifier(members)))
    return found
