// Schemas of fastcam's raw ops. They are private: fastcam/functional.py is what people call.
// Kernels register themselves for their device in cpu/ and cuda/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastcam, m)
{
  m.def("_cam_forward(Tensor activations, Tensor gradients, bool normalize)"
        " -> (Tensor cam, Tensor alpha, Tensor peak)");
  m.def(
      "_cam_iou_forward(Tensor activations, Tensor gradients, Tensor regions,"
      " Tensor? cell_weights, Tensor? where, float threshold, float sharpness, int binarize,"
      " float eps, float max_pull) -> (Tensor loss, Tensor alpha, Tensor grad_map, Tensor status)");
  m.def("_cam_backward(Tensor activations, Tensor alpha, Tensor grad_map, Tensor? scale,"
        " Tensor? status, bool need_activations, bool need_gradients)"
        " -> (Tensor grad_activations, Tensor grad_gradients)");
  m.def("_cam_loss_forward(Tensor activations, Tensor gradients, Tensor regions,"
        " Tensor? cell_weights, Tensor? where, int loss, float[] params,"
        " float max_pull, int reduction, bool need_gradients) -> (Tensor loss, Tensor status, "
        "Tensor reduced, Tensor count,"
        " Tensor alpha, Tensor grad_map, Tensor grad_gradients)");
  m.def("_cam_loss_backward(Tensor alpha, Tensor grad_map, Tensor? grad_gradients, Tensor status,"
        " Tensor grad, Tensor? count, int dtype, bool channels_last, bool need_activations)"
        " -> (Tensor grad_activations, Tensor scaled_gradients)");
  m.def("_tone_curve(Tensor mask, float n, float beta) -> Tensor");
  m.def("_tone_curve_backward(Tensor mask, Tensor grad, float n, float beta) -> Tensor");
  m.def("_attend_forward(Tensor features, Tensor logits, float[] n, float[] beta, bool pool)"
        " -> (Tensor out, Tensor mask_sum)");
  m.def("_attend_backward(Tensor features, Tensor logits, Tensor grad_out, Tensor? grad_mask_sum,"
        " float n, float beta, bool pool, bool need_features, bool need_logits)"
        " -> (Tensor grad_features, Tensor grad_logits)");
  m.def("_cpu_isa() -> str");
}
